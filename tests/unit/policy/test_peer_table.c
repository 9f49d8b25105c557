/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of client addresses: what is one address, who has an entry, and what becomes of claims
 * whose maker lost the lock. tests/model/peers.pml tries all interleavings of the same steps.
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/peer_table.h"

#define ME 3
#define OTHER 7
#define NO_CEILING UINT64_MAX

static struct segment_peer *table;

static int begin(void **state)
{
    (void)state;
    table = calloc(SEGMENT_PEERS, sizeof *table);
    return table ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    free(table);
    return 0;
}

static struct peer_key key_of(const char *text)
{
    struct sockaddr_storage address = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
        address.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1)
        address.ss_family = AF_INET6;
    else
        address.ss_family = AF_UNIX;
    return peer_table_key(&address);
}

static bool nobody_gone(uint32_t process)
{
    (void)process;
    return false;
}

static bool everybody_gone(uint32_t process)
{
    (void)process;
    return true;
}

static bool held(lease mine)
{
    (void)mine;
    return true;
}

static bool lost(lease mine)
{
    (void)mine;
    return false;
}

static const struct peer_claimant me = {ME, nobody_gone, LEASE_NONE, held};

static uint32_t insert(struct peer_key key)
{
    uint32_t index = SEGMENT_PEERS;
    assert_int_equal(peer_table_insert(table, key, me, &index), PEER_TAKEN);
    assert_true(index < SEGMENT_PEERS);
    return index;
}

/* The n-th IPv4 address whose key is looked for from the same place on. */
static struct peer_key neighbour_of(struct peer_key key, unsigned n)
{
    struct peer_key other = key;
    do {
        other.word[1]++;
        n -= peer_table_start(other) == peer_table_start(key);
    } while (n > 0);
    return other;
}

static void an_address_is_counted_as_one(void **state)
{
    static const struct {
        const char *one, *other;
        bool same;
    } cases[] = {
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.1", "::ffff:192.0.2.1", true},
        {"192.0.2.1", "::192.0.2.1", false},
        {"2001:db8:0:1::1", "2001:db8:0:1:ffff::9", true}, /* a /64 is one customer */
        {"2001:db8:0:1::1", "2001:db8:0:2::1", false},
        {"::", "::1", true},
        {"::", "0.0.0.0", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct peer_key one = key_of(cases[i].one), other = key_of(cases[i].other);
        assert_int_equal(memcmp(&one, &other, sizeof one) == 0, cases[i].same);
        assert_false(peer_table_is_nobody(one));
    }
    assert_true(peer_table_is_nobody(key_of("/a/path")));
}

static void places_are_given_up_to_the_ceiling(void **state)
{
    struct peer_key key = key_of("192.0.2.1");
    uint32_t index, found;
    (void)state;
    assert_int_equal(peer_table_take(table, key, 3, &found), PEER_ABSENT);
    assert_null(peer_table_find(table, key));
    index = insert(key);
    for (unsigned taken = 1; taken < 3; taken++)
        assert_int_equal(peer_table_take(table, key, 3, &found), PEER_TAKEN);
    found = SEGMENT_PEERS;
    assert_int_equal(peer_table_take(table, key, 3, &found), PEER_FULL);
    assert_int_equal(found, index);
    assert_ptr_equal(peer_table_find(table, key), &table[index]);
    assert_int_equal(gauge_count(&table[index].conns), 3);
    gauge_give(&table[index].conns);
    assert_int_equal(peer_table_take(table, key, 3, &found), PEER_TAKEN);
    assert_int_equal(peer_table_take(table, key_of("192.0.2.2"), 3, &found), PEER_ABSENT);
}

static void an_entry_without_connections_is_anothers(void **state)
{
    struct peer_key first = key_of("192.0.2.1"), second = neighbour_of(first, 1),
                    third = neighbour_of(first, 2);
    uint32_t index = insert(first), found;
    (void)state;
    uint32_t next = insert(second);
    assert_int_equal(next, (index + 1) % SEGMENT_PEERS);
    gauge_give(&table[index].conns);
    assert_int_equal(peer_table_take(table, first, NO_CEILING, &found), PEER_ABSENT);
    assert_int_equal(peer_table_take(table, second, NO_CEILING, &found), PEER_TAKEN);
    assert_int_equal(found, next);
    assert_int_equal(insert(third), index);
    assert_int_equal(peer_table_insert(table, second, me, &found), PEER_AGAIN); /* it has one */
}

static void no_entry_is_made_where_all_are_taken(void **state)
{
    struct peer_key key = key_of("192.0.2.1");
    uint32_t found;
    (void)state;
    for (uint32_t i = 0; i < PEER_TABLE_PROBES; i++)
        gauge_take(&table[(peer_table_start(key) + i) % SEGMENT_PEERS].conns, NO_CEILING);
    assert_int_equal(peer_table_insert(table, key, me, &found), PEER_ABSENT);
    assert_null(peer_table_find(table, key));
}

static void who_lost_the_lock_makes_no_entry(void **state)
{
    struct peer_key key = key_of("192.0.2.1");
    struct peer_claimant slow = {ME, nobody_gone, LEASE_NONE, lost};
    struct segment_peer *peer = &table[peer_table_start(key)];
    uint64_t before = atomic_load(&peer->conns.word);
    uint32_t found;
    (void)state;
    assert_int_equal(peer_table_insert(table, key, slow, &found), PEER_AGAIN);
    assert_int_equal(gauge_count(&peer->conns), 0);
    assert_true(atomic_load(&peer->conns.word) != before); /* an audit of then mends nothing */
    insert(key);
}

static struct peer_key wanted;

/* The lock is taken over just after it was found to be held, and the other one is done first. */
static bool held_a_moment_ago(lease mine)
{
    struct peer_claimant other = {OTHER, nobody_gone, LEASE_NONE, held};
    uint32_t index;
    (void)mine;
    assert_int_equal(peer_table_insert(table, wanted, other, &index), PEER_TAKEN);
    return true;
}

static void an_address_gets_one_entry_though_two_make_it(void **state)
{
    struct peer_claimant slow = {ME, nobody_gone, LEASE_NONE, held_a_moment_ago};
    uint32_t counted = 0, found;
    (void)state;
    wanted = key_of("192.0.2.1");
    assert_int_equal(peer_table_insert(table, wanted, slow, &found), PEER_AGAIN);
    for (uint32_t i = 0; i < SEGMENT_PEERS; i++)
        counted += (uint32_t)atomic_load(&table[i].conns.word);
    assert_int_equal(counted, 1);
    assert_int_equal(peer_table_take(table, wanted, NO_CEILING, &found), PEER_TAKEN);
}

static void a_claim_is_revoked_and_freed_when_its_maker_is_gone(void **state)
{
    struct peer_key key = key_of("192.0.2.1"), second = neighbour_of(key, 1);
    uint32_t start = peer_table_start(key), found;
    struct segment_peer *peer = &table[start];
    struct peer_claimant later = {ME, everybody_gone, LEASE_NONE, held};
    (void)state;
    atomic_store(&peer->conns.word, gauge_with_count(0, PEER_CLAIMED | OTHER));
    assert_int_equal(insert(key), (start + 1) % SEGMENT_PEERS);
    assert_int_equal((uint32_t)atomic_load(&peer->conns.word), PEER_REVOKED | OTHER);
    assert_int_equal(insert(second), (start + 2) % SEGMENT_PEERS); /* it may write the key still */
    assert_int_equal((uint32_t)atomic_load(&peer->conns.word), PEER_REVOKED | OTHER);
    assert_int_equal(peer_table_insert(table, neighbour_of(key, 2), later, &found), PEER_TAKEN);
    assert_int_equal(found, start);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_address_is_counted_as_one, begin, end),
        cmocka_unit_test_setup_teardown(places_are_given_up_to_the_ceiling, begin, end),
        cmocka_unit_test_setup_teardown(an_entry_without_connections_is_anothers, begin, end),
        cmocka_unit_test_setup_teardown(no_entry_is_made_where_all_are_taken, begin, end),
        cmocka_unit_test_setup_teardown(who_lost_the_lock_makes_no_entry, begin, end),
        cmocka_unit_test_setup_teardown(an_address_gets_one_entry_though_two_make_it, begin, end),
        cmocka_unit_test_setup_teardown(a_claim_is_revoked_and_freed_when_its_maker_is_gone, begin,
                                        end),
    };
    return cmocka_run_group_tests_name("peer table", tests, NULL, NULL);
}
