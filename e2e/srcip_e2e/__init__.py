"""What proves srcip on a whole machine, and ships with nothing: the node and its control plane, the images' builder,
other kernels, and the benchmark."""
