"""Where offline evidence lives: datasets, their files, their audit."""
