"""What the paper, its critics and its reviewers asked beyond the headline experiments: one question a module."""
