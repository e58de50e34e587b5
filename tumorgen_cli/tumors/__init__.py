"""Tumors as arrays: boxes around them and for them, mask priors, removal from a scan, noise like the scan's own."""
