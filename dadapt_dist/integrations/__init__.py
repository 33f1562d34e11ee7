"""Adapters and callbacks for other libraries; importing dadapt_dist imports none of these libraries."""
