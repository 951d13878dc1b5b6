"""Other Linux kernels than this machine's: they boot in a virtual machine and run tests of ring 2 there."""
