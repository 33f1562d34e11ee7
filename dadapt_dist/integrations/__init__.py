"""Adapters and callbacks for other libraries; importing dadapt_dist imports none of these libraries."""

from .._moved_paths import OLD_NAMES as _OLD_NAMES

__path__.append(_OLD_NAMES)
