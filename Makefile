# Mercato's tasks. The scripts are in dev/; each says at its top what it does and which variables it reads.
.DEFAULT_GOAL := help
.PHONY: help up down reset test chaos fuzz chaos-all check check-fast bench sqlx baseline
.PHONY: check-helm k8s-play k8s-drill observe check-ops drill-alerts release image image-verify image-sbom image-scan image-push check-delivery deploy smoke rollback backup-artifacts clean-build drill-backup image-play k8s-node

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

up: ## build and run the shop on real parts, in the foreground (MERCATO_DETACH=1: in the background)
	@dev/up

down: ## stop everything; data stay
	@dev/down

reset: ## stop everything and wipe the data
	@dev/down --wipe

test: ## every test, on real parts
	@dev/test

chaos: ## break a shop of its own under load and check every promise (SEED=n ORDERS=n NEMESIS=name SECONDS=n FORM=name PLANT=bug-n CRASH=C-n:n)
	@SEED='$(SEED)' ORDERS='$(ORDERS)' NEMESIS='$(NEMESIS)' SECONDS_LONG='$(SECONDS)' FORM='$(FORM)' PLANT='$(PLANT)' CRASH='$(CRASH)' dev/chaos

chaos-all: ## 10,000 orders under each kind of fault, one after the other; prints a table (SEED=n ORDERS=n FORM=name)
	@SEED='$(SEED)' ORDERS='$(or $(ORDERS),10000)' FORM='$(FORM)' dev/chaos all

fuzz: ## garbage for every decoder (SEED=n INPUTS=n, or one again: INPUT='target:hex')
	@SEED='$(SEED)' INPUTS='$(INPUTS)' INPUT='$(INPUT)' dev/fuzz

check: ## formatting, lints, scripts, licences, query descriptions
	@dev/check

check-fast: ## formatting, lints, scripts
	@dev/check --fast

bench: ## the benchmarks, on the shop built for release
	@dev/bench

sqlx: ## write .sqlx anew, after a query or a migration has changed
	@dev/sqlx

baseline: ## accept the contracts as they are as the released ones
	@MERCATO_UPDATE_BASELINE=1 cargo test -p mercato-contracts nothing_that_clients_rely_on_changed

release: ## build the executables as they are shipped, profile dist
	@MERCATO_REVISION=$$(git describe --always --dirty --abbrev=40 --exclude='*') SQLX_OFFLINE=true \
	  cargo build --locked --profile dist -p mercato -p mercato-provider

image: ## build the images with docker (MERCATO_IMAGE=name MERCATO_TAG=tag)
	@dev/image build

image-verify: ## without docker: the program runs from what the image would hold (root, or user namespaces)
	@dev/image verify

image-sbom: ## what the images are made of, target/image/*.cdx.json
	@dev/image sbom

image-scan: ## look for known faults in the image, with trivy or grype
	@dev/image scan

image-push: ## push the images (MERCATO_REGISTRY_USER, MERCATO_REGISTRY_PASSWORD)
	@dev/image push

check-delivery: ## Dockerfile, its context, compose.yaml and the Jenkinsfile, played through
	@dev/check-delivery

deploy: ## helm upgrade --install --atomic to the cluster of KUBECONFIG (MERCATO_ENVIRONMENT, DEPLOY_VALUES; see dev/deploy)
	@dev/deploy deploy

smoke: ## an order in the deployed shop, and its door (SMOKE_URL)
	@dev/deploy smoke

rollback: ## undo this run's `make deploy`, and nothing else
	@dev/deploy rollback

backup-artifacts: ## collect what is worth keeping of a run in target/artifacts
	@dev/artifacts

clean-build: ## stop what a run has started and remove what it left, its artefacts too; compiled code and fetched tools stay
	@dev/artifacts clean

drill-backup: ## back a shop up, destroy it, restore it, go on, and check every promise (BROKER=kept|gone|alone)
	@dev/drill-backup $(or $(BROKER),kept)

check-helm: ## judge the chart without a cluster
	@dev/check-helm

k8s-play: ## run what the chart renders as processes here, and buy something
	@dev/k8s-play

k8s-drill: ## install, upgrade, break, roll back and drain the chart on a real API server
	@dev/k8s-drill

observe: ## Prometheus, and Jaeger where it is built (dev/jaeger), beside make up
	@dev/observe

check-ops: ## alerts with their tests and runbooks, dashboards
	@dev/check-ops

drill-alerts: ## make the cause of every alert, and see it fire
	@dev/drill-alerts

image-play: ## build the images and play compose.yaml in a container engine of its own, on stand-in base images (root)
	@dev/image-play

k8s-node: ## the chart on a real kubelet, after image-play's images (root)
	@dev/k8s-node
