"""The real client address without a proxy: programs in the kernel, their maps and their counters."""
