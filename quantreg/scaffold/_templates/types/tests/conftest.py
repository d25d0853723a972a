pytest_plugins = ["quantreg.testing.pytest_plugin"]  # for --update-golden
