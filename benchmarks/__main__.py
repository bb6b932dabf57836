"""``python -m benchmarks``: every benchmark, one after the other."""

from benchmarks import coordinator_rate, idle_gap

if __name__ == "__main__":
    idle_gap.main()
    coordinator_rate.main()
