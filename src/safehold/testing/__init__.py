"""Contract suites for what others may implement."""
