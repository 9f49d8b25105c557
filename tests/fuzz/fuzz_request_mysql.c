/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#define PROTOCOL BUSY_IN_MYSQL
#include "conversation_fuzz.h"
