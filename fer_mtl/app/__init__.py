"""The page in a browser: pictures and videos read, faces redrawn. ``fer-mtl app`` serves it."""
