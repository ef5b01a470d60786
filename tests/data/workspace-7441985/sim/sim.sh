#!/bin/bash

echo value $(X); test $(X) -ne 2 || test -e /tmp/old/good
