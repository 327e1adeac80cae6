"""What a run measures and shows: metrics, trackers, the display."""
