"""The benchmark harness: Duly beside its peers, interleaved, on one workload."""
