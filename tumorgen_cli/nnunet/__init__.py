"""nnU-Net v2 as a library and as a child process: jobs, schedules, trainers, results folders; painting while it trains."""
