"""Adapters and callbacks for other libraries; importing dadapt_dist imports none of these libraries."""

from .._moved_paths import OLD_NAMES

__path__.append(OLD_NAMES)
