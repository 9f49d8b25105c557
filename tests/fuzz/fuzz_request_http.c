/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#define PROTOCOL BUSY_IN_HTTP
#define LIMITS "exempt-request=/healthz,/r/,/a/b/c"
#include "conversation_fuzz.h"
