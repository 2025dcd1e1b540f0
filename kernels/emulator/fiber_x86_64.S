/* Stack switch for x86-64 (System V): rbx, rbp and r12 to r15 belong to the caller; the rest need not survive a call.
   Kernels change neither rounding nor exceptions, so mxcsr and the x87 control word stay as they are.
   A stack that is left holds, upwards: r15 r14 r13 r12 rbx rbp, the return address. */
    .text
    .globl coronet_switch_fiber
    .hidden coronet_switch_fiber
    .type coronet_switch_fiber, @function
    .p2align 4
coronet_switch_fiber:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size coronet_switch_fiber, . - coronet_switch_fiber
    .section .note.GNU-stack, "", @progbits
