"""`python -m MMSA_ext` is `mmsa-ext`."""

from MMSA_ext.cli import main

if __name__ == "__main__":
    main()
