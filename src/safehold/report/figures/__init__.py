"""One file a figure: first a frozen `info`, then `draw(info)`, a drawing of it."""
