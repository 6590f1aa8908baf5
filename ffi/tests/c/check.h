/* A test harness: a test is a function, CHECK counts failures, RUN counts tests. Compiles as C11 and as C++17. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <string.h>

static int checks_failed, tests_passed, tests_failed;

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__, #condition);                    \
            checks_failed++;                                                                                         \
        }                                                                                                            \
    } while (0)

#define CHECK_TEXT(is, expected)                                                                                     \
    do {                                                                                                             \
        if (strcmp((is), (expected)) != 0) {                                                                         \
            fprintf(stderr, "%s:%d: %s: got \"%s\", want \"%s\"\n", __FILE__, __LINE__, __func__, (is), (expected));   \
            checks_failed++;                                                                                         \
        }                                                                                                            \
    } while (0)

#define RUN(test)                                                                                                    \
    do {                                                                                                             \
        int before = checks_failed;                                                                                  \
        test();                                                                                                      \
        if (checks_failed == before) {                                                                               \
            tests_passed++;                                                                                          \
            printf("ok %s\n", #test);                                                                                \
            fflush(stdout);                                                                                          \
        } else {                                                                                                     \
            tests_failed++;                                                                                          \
            fprintf(stderr, "FAILED: %s\n", #test);                                                                  \
        }                                                                                                            \
    } while (0)

static inline int tests_end(void) {
    printf("%d passed, %d failed\n", tests_passed, tests_failed);
    return tests_failed != 0 || tests_passed == 0;
}

#endif
