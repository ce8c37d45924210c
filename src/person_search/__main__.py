"""``python -m person_search``: the command line."""

from person_search.commandline.cli import main

if __name__ == "__main__":
    main()
