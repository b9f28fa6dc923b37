"""Small worlds whose expected returns are known in closed form."""
