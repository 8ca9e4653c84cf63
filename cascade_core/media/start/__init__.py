"""What a video begins with: a stranger's picture or clip to pictures of the video's size and speed. No torch.

Whoever opens files that are not their own does it in a process that may die
(`services/decoder/start_process.py`).
"""
