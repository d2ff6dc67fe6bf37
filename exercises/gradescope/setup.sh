#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -e
apt-get update
apt-get install -y python3 python3-pip
pip3 install torch --index-url https://download.pytorch.org/whl/cpu
pip3 install -r /autograder/source/requirements.txt
