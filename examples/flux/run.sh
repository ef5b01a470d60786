#!/bin/bash
# Two whole nodes: everything below happens on them, in a Flux instance of their own.
#flux: --nodes=2
#flux: --exclusive
#flux: --time-limit=10m
#flux: --job-name=mrun-darts
#flux: --output=run.out

# A server for this job, that all of its nodes can reach. If you have one that runs elsewhere, leave these lines out.
mrun server start --listen 0.0.0.0
trap 'mrun server stop' EXIT

mrun queue spec.yaml
# A worker for each broker of the instance. They end when the study has ended; `flux cancel` ends them.
mrun work spec.yaml --exit-when-done
mrun status last
