# Everything that is done with this checkout. What a target does is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help setup build run start stop env test soak test-cgroup2 bench lint proto clean-host

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  NULLSPACE_DATA_DIR (/var/lib/nullspace) and NULLSPACE_LISTEN (127.0.0.1:3000) choose the server."

setup: ## Install what is missing and build everything
	@scripts/setup.sh

build: ## Build the server, the command line, the agent and the Python stubs
	@scripts/setup.sh server cli agent stubs

run: ## Set up, start the server and run the quickstart
	@scripts/run.sh

start: ## Start the server in the background
	@scripts/setup.sh run
	@scripts/server.sh start

stop: ## Stop the server; its sandboxes go on
	@scripts/server.sh stop

env: ## Print the shell settings of a client: eval "$(make -s env)"
	@scripts/env.sh

test: ## Run all tests (SCALE=small or full)
	@SCALE=$(or $(SCALE),small) scripts/test.sh

soak: ## Everything at once for an hour (SOAK=seconds)
	@scripts/test.sh soak

test-cgroup2: ## Run some tests in an emulated Debian 12 with cgroup v2, slowly
	@scripts/test-cgroup2.sh

bench: ## Measure, beside the bare engine (SCALE=full or small)
	@scripts/bench.sh

lint: ## Check style, the contract, dependencies and sizes
	@scripts/lint.sh

proto: ## Generate code from proto/ again, in all languages, and build the clients
	@rm -f $(addprefix target/stamps/,stubs go typescript java cpp)
	@scripts/setup.sh stubs buf go typescript java cpp

clean-host: ## Remove all that any server left on this host
	@scripts/clean-host.sh
