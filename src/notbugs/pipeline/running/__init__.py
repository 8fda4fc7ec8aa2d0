"""What the stages share: where they run, with which workers, and what they keep."""
