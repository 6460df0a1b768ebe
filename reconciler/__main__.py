"""`python -m reconciler`: the same as `kie-reconciler`."""

from reconciler.cli import main

if __name__ == "__main__":
    main()
