"""The routes, one file for each family; `reconciler/front.py` lists them."""
