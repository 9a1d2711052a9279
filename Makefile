# headrace: `make help` lists the targets. Everything here is plain go commands; make only saves typing.
GO      ?= go
PKG     ?= ./...
TESTFLAGS ?=
ORDERS  ?= 10000
LINT    = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
COMPOSE = docker compose -f examples/deploy/compose.yaml
WITH    = $(GO) run ./internal/servers/cmd/with-servers
.DEFAULT_GOAL := help
.PHONY: help demo test race bench lint fuzz ci up down

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the main job on throwaway servers (ORDERS=10000; more: go run ./examples/demo -h)
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && GO=$(GO) ./.ci/build "$$dir/demo" ./examples/demo && "$$dir/demo" -orders $(ORDERS)

test: ## all tests on real servers; installs or starts what is missing (PKG=./queue for one package)
	@$(WITH) -install -memory -- $(GO) test -timeout 30m $(TESTFLAGS) $(PKG)

race: ## the same with the race detector
	@$(WITH) -install -memory -- env CGO_ENABLED=1 $(GO) test -race -timeout 30m $(TESTFLAGS) $(PKG)

bench: ## every figure against the bare tool in the same run (PKG=queue for one package, JSON=1 for machines)
	@$(WITH) -install -tuned -- $(GO) run ./internal/bench/cmd/bench $(if $(JSON),-json) $(filter-out ./...,$(PKG))

lint: ## gofmt, go vet, golangci-lint (also the imports of the pattern packages), conventions
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt: run gofmt -w on these"; exit 1; }
	@$(GO) vet ./...
	@$(LINT) run ./...
	@$(GO) test ./internal/conventions

fuzz: ## each fuzz target on 20,000 inputs
	@./.ci/fuzz 20000

ci: ## what CI runs
	@.ci/run

up: ## the whole pipeline in containers, with docker compose (PROFILE=monitoring adds Prometheus and Grafana)
	@test -f examples/deploy/.env || cp examples/deploy/.env.example examples/deploy/.env
	@$(COMPOSE) $(if $(PROFILE),--profile $(PROFILE)) up -d --build

down: ## stop it; the data stays in its volumes
	@$(COMPOSE) --profile monitoring down
