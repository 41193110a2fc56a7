//! A machine in host memory, for tests.
