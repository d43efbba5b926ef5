"""RouteGuard (arXiv 2605.30693): a router, experts in the upper layers of one frozen base, and experts to add."""
