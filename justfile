# Recipes call the same scripts that the README names.

# Lists the recipes
default:
    @just --list

# The main job on sample data
demo:
    scripts/demo

# Unit tests: no server
quick:
    scripts/test --quick

# All tests
test:
    scripts/test

# All tests with the counts of the nightly tier
nightly:
    scripts/test --nightly

# What CI runs
ci:
    .ci/run

# Binary, man page, completions, example configuration
install prefix="/usr/local":
    scripts/install {{prefix}}

# Removes what old builds left in the cache
prune:
    scripts/prune
