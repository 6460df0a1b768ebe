"""The routes, one file for each family; `bootstrap/http.py` lists them."""
