"""Prints docs/bad-inputs.md: `make bad-inputs` writes it."""

from tests.bad_input.page import page

if __name__ == "__main__":
    print(page(), end="")
