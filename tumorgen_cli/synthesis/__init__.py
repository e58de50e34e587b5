"""In: a method and host scans. Out: pairs, each with provenance, as an nnU-Net raw data set; also merged with real cases,
or painted for nnU-Net while it trains.
"""
