"""From a model and a recipe to pictures, with the recipe kept in their files."""
