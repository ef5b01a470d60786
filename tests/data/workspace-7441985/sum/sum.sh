#!/bin/bash

echo sum
