/* A plugin for QEMU's user mode that counts the instructions which a program executes. The program asks for the count by a
 * system call that does not exist, number MARK, with a label: the plugin writes "label count" to the standard error stream.
 *
 * What it needs of QEMU (qemu-plugin.h, version 1 of the interface: QEMU 4.2 to 8.2) is declared here, because distributions
 * do not ship that header. */
#include <stdint.h>
#include <stdio.h>

#define MARK 20001

typedef uint64_t plugin_id;
struct block;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int add, void *counter, uint64_t number);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t executed;

static void translated(plugin_id id, struct block *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &executed, qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t label, uint64_t b, uint64_t c, uint64_t d,
    uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == MARK) fprintf(stderr, "%llu %llu\n", (unsigned long long)label, (unsigned long long)executed);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int n, char **arguments) {
    (void)info, (void)n, (void)arguments;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
