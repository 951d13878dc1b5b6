"""`srcip-proxy outbound`: headers for a Pod's own requests, without an injection."""
