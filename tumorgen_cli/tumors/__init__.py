"""Tumors as arrays: boxes around and for them, drawn masks, removal from a scan, noise like the scan's own."""
