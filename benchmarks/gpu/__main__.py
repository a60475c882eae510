"""python -m benchmarks.gpu."""

from benchmarks.gpu.driver import main

if __name__ == "__main__":
    main()
