#!/usr/bin/env bash
# Tests the web app in headless Chromium, from Debian's packages:
#   apt-get install chromium chromium-driver
#   bash launch/browser_test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt tests/requirements.txt tests/browser/requirements.txt
python -m pytest -n 0 tests/browser/page.py tests/browser/gallery.py "$@"
