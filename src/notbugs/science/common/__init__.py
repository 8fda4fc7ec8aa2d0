"""What several questions share: how they are studied, how they train, how they state a share."""
