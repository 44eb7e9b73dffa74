"""`python -m kernels.ahead`, the short name of `kernels.tools.ahead`."""

from .tools.ahead import main

if __name__ == "__main__":
    main()
