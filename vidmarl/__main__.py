"""`python -m vidmarl ...` is `vidmarl ...`."""

from vidmarl.cli import main

if __name__ == "__main__":
    main()
