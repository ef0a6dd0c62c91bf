"""The signed repository that `./invoke publish` makes: what apt reads, what stays, and the signatures."""
