pytest_plugins = ["quantreg.testing.pytest_plugin"]  # the option --update-golden
