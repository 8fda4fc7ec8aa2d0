"""Parts of your own, which params.yaml names: a network, a recipe, a source of D. Change them, or write others."""
