# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Completion of bpctl for bash.

_bpctl_services() {
    bpctl ls 2> /dev/null | awk 'NR > 1 { print $1 }'
}

_bpctl_limits() {
    bpctl help limits 2> /dev/null | awk '{ print $1 "=" }'
}

# The values that a limit takes by name; nothing for numbers, sizes and times.
_bpctl_values() {
    bpctl help limits "$1" 2> /dev/null | sed -n 's/^words: //p'
}

_bpctl() {
    local word=$2 command=${COMP_WORDS[1]} i
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W \
            'run ls show set pause resume drain top depth events metrics check probe help --version' -- "$word")
        return
    fi
    # bash takes = for a word of its own.
    local limit= before=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $word == = ]]; then
        limit=$before word=
    elif [[ $before == = ]]; then
        limit=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ $command == run ]]; then
        for ((i = 2; i < COMP_CWORD; i++)); do
            [[ ${COMP_WORDS[i]} == -- ]] && {
                compopt -o default
                ((i + 1 == COMP_CWORD)) && mapfile -t COMPREPLY < <(compgen -c -- "$word")
                return
            }
        done
    fi
    if [[ -n $limit && $command == @(run|set) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_bpctl_values "$limit")" -- "$word")
        return
    fi
    case $command:$before in
        run:-f | run:--file)
            compopt -o default
            return
            ;;
        run:--name | drain:--timeout | metrics:--listen) return ;;
    esac
    local words=
    case $command in
        run) words="--name -f -- $(_bpctl_limits)" ;;
        set)
            if ((COMP_CWORD == 2)); then words=$(_bpctl_services); else words=$(_bpctl_limits); fi
            ;;
        show | depth) words="$(_bpctl_services) --json" ;;
        pause | resume | top) words=$(_bpctl_services) ;;
        drain) words="$(_bpctl_services) --timeout" ;;
        events) words="$(_bpctl_services) --follow --json" ;;
        ls) words=--json ;;
        metrics) words=--listen ;;
        check) words=$(compgen -c -- "$word") ;;
        probe) words='start stop status' ;;
        help) words='run ls show set pause resume drain top depth events metrics check probe limits' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words --help" -- "$word")
    [[ ${COMPREPLY[0]-} == *= && ${#COMPREPLY[@]} == 1 ]] && compopt -o nospace
    return 0
}

complete -F _bpctl bpctl
