/*
 * Failover of streaming replication: terms, answers, cut, excuse, fencing, return. docs/explanation/failover.md
 * has the rules in words, the bounds and the results.
 *
 * One process takes one atomic step at a time, in every order. Messages are never stored: a claim that was sent may
 * reach a node in any later state or never, which covers loss, loss in one direction, delay, reordering, duplication.
 * A node is an entry of `n`, without a name. Other nodes are referred to by the claim that they made or led, and
 * a set of nodes is a bit in each of its members. So the entries are sorted after each step, and states that
 * differ only by a permutation of nodes are one state.
 *
 * Set by the caller: NODES, WITNESSES (of NODES), SYNC (n), CLAIMS, WRITES, EXCUSE, and for a mutant, its name.
 */

#define NONE 7
#define MAJORITY (NODES / 2 + 1)
#define DATABASES (NODES - WITNESSES)
#if CLAIMS == 2	/* the last two are for `calm` */
#define SLOTS 4
#elif CLAIMS == 3
#define SLOTS 5
#else
#define SLOTS 6
#endif
#define BIT(x) (1 << (x))

/* Roles. HALF: its data directory is being copied or rewound. FORMER: stopped, with the data of a primary. */
#define STANDBY 0
#define PRIMARY 1
#define FORMER 2
#define HALF 3
#define WITNESS 4

typedef Node {
	unsigned role : 3;
	unsigned rec : 3;	/* durable: the latest claim it recorded; its term is term[rec] */
	unsigned led : 3;	/* durable: the latest claim it led; NONE: it never led */
	unsigned tl : 3;	/* its WAL: the claim whose promotion began its timeline, */
	unsigned log : WRITES;	/* and the writes in it */
	unsigned rep : WRITES;	/* the writes that it has reported as flushed to the primary that made them */
	unsigned fol : 3;	/* durable, primary_conninfo: the node that led this claim; NONE: cut off */
	unsigned cand : 3;	/* memory: the claim for which it collects answers */
	unsigned am : SLOTS;	/* in the claimants' memory: it answered claim k */
	unsigned ad : SLOTS;	/* ... with complete WAL that is not ahead of the claimant's */
	unsigned a1 : SLOTS;	/* ... and had recorded no term later than the claimant led */
	unsigned a3 : SLOTS;	/* ... and had not led a later term than the claimant */
#ifdef OWN_CLAIMS_IGNORED
	unsigned own : SLOTS;	/* the claims that it made */
#endif
#ifdef EXCUSE
	unsigned unl : SLOTS;	/* durable, at the primary of claim k: it is not in synchronous_standby_names */
	unsigned excused : SLOTS;	/* the excuse of the primary of claim k names it */
	unsigned ec : 3;	/* durable: the latest excuse it recorded: of the primary of this claim, */
	unsigned es : 2;	/* with this serial. 0: none; 1: the first of its term, names nodes if it kept some; */
				/* 2: names nodes; 3: ended */
	unsigned ce : 3;	/* memory of a claimant: the latest excuse in the answers */
	unsigned cs : 2;
#endif
};

Node n[NODES];

typedef Claim {
	unsigned term : 3;
	unsigned won : 1;
	unsigned base : WRITES;	/* the writes in the WAL of its primary when it began */
	unsigned par : 3;	/* the timeline from which its promotion branched off */
	unsigned num : 3;	/* the number that PostgreSQL gives to its timeline */
#ifdef EXCUSE
	unsigned first : 2;	/* the serial of its first excuse, */
	unsigned sent : 2;	/* and of the latest one it sent */
	unsigned end : WRITES;	/* what n listed standbys must hold before the excuse */
#endif
};

Claim c[SLOTS];

typedef Write {
	unsigned led : 3;	/* the claim of the primary that made it */
};

Write w[WRITES];
byte claims = 1;
byte writes = 0;
byte acked = 0;

hidden byte y, q, best, latest, whole, there, o1, o2;
hidden byte i, j, k, p, x, lim, held, fit, able;

#define TERM(claim) (c[claim].term)
#define RANK_LE(a, b) (TERM(n[a].tl) < TERM(n[b].tl) || (n[a].tl == n[b].tl && n[a].log <= n[b].log))
#define COUNT3(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1))
#ifdef RANKS_BY_TIMELINE_NUMBER
#undef RANK_LE
#define RANK_LE(a, b) (c[n[a].tl].num < c[n[b].tl].num || \
	(c[n[a].tl].num == c[n[b].tl].num && COUNT3(n[a].log) <= COUNT3(n[b].log)))
#endif
#ifdef RANK_IGNORED
#undef RANK_LE
#define RANK_LE(a, b) true
#endif

#ifdef EXCUSE
#define LISTED(s, claim) (!(n[s].unl & BIT(claim)))
#define LATER(e1, s1, e2, s2) (TERM(e1) > TERM(e2) || (TERM(e1) == TERM(e2) && (s1) > (s2)))
#else
#define LISTED(s, claim) true
#endif

#ifdef HALF_COUNTS
#define HOLDS(a) (n[a].role != WITNESS)
#else
#define HOLDS(a) (n[a].role != WITNESS && n[a].role != HALF)
#endif

#ifdef EXCUSE
#define EXCUSED(s, q) (n[q].cs == 2 && (n[s].excused & BIT(n[q].ce)))
#else
#define EXCUSED(s, q) false
#endif

#ifdef MAJORITY_OFF_BY_ONE
#define ENOUGH (MAJORITY - 1)
#else
#define ENOUGH MAJORITY
#endif

#ifdef STANDBYS_OFF_BY_ONE
#define UNSEEN (SYNC + 1)
#else
#define UNSEEN SYNC
#endif

#ifdef OWN_CLAIMS_IGNORED
#define MINE(q, claim) (n[q].own & BIT(claim))
#else
#define MINE(q, claim) false
#endif

/* A server cannot begin a timeline while its sessions go on. */
#ifdef PROMOTED_WHILE_RUNNING
#define RUNNING NONE
#else
#define RUNNING PRIMARY
#endif

#ifdef ANY_MAJORITY_RESUMES
#define LATEST(a) (n[a].led != NONE)
#else
#define LATEST(a) (j >= MAJORITY || (held == DATABASES && n[a].led != NONE))
#endif

#ifdef EXCUSED_EARLY
#define EXCUSABLE true
#else
#define EXCUSABLE (held >= SYNC)
#endif

#ifdef EXCUSE
#define OWN(a) (n[a].role != STANDBY && n[a].ec == n[a].led && n[a].es == 2)
#define KEEP_UNLISTED(a) \
	if \
	:: n[a].role != STANDBY && (n[i].unl & BIT(n[a].led)) -> \
		n[i].unl = n[i].unl | BIT(k); \
		if :: OWN(a) && (n[i].excused & BIT(n[a].led)) -> n[i].excused = n[i].excused | BIT(k) :: else fi \
	:: else \
	fi;
#define FIRST_EXCUSE(a) \
	c[k].first = (OWN(a) -> 2 : 1); c[k].sent = c[k].first; c[k].end = n[a].log; \
	n[a].es = c[k].first; n[a].ec = k; n[a].ce = 0; n[a].cs = 0;
#else
#define KEEP_UNLISTED(a)
#define FIRST_EXCUSE(a)
#endif

c_code {
	static int by_content(const void *a, const void *b) { return memcmp(a, b, sizeof(struct Node)); }
	static void show(void)
	{
#ifdef TRACE
		static const char *roles[] = {"standby", "primary", "former", "half", "witness"};
		int b;
		for (b = 1; b < now.claims; b++)
			printf("claim %d: term %d won %d base %d | ", b, now.c[b].term, now.c[b].won, now.c[b].base);
		printf("acked %d\n", now.acked);
		for (b = 0; b < NODES; b++)
			printf("  %-8s rec %d led %d tl %d log %d rep %d fol %d cand %d am %d ad %d a1 %d a3 %d\n",
				roles[now.n[b].role], now.n[b].rec, now.n[b].led, now.n[b].tl,
				now.n[b].log, now.n[b].rep, now.n[b].fol, now.n[b].cand, now.n[b].am, now.n[b].ad, now.n[b].a1, now.n[b].a3);
#endif
	}
}

/* p = the running primary that leads claim `claim`, or NODES */
inline find_primary(claim) {
	p = 0;
	do
	:: p < NODES && !(n[p].role == PRIMARY && n[p].led == claim) -> p++
	:: else -> break
	od
}

/* fit = whether the WAL of s is part of that of q */
inline compare(s, q) {
	fit = 0; x = n[q].tl; lim = n[q].log;
	do
	:: n[s].tl == x -> fit = ((n[s].log & ~lim) == 0); break
	:: n[s].tl != x && x == 0 -> break
	:: else -> lim = c[x].base; x = c[x].par
	od
}

/* After each step: forget what no later step can use, check, sort. */
inline settle() {
	j = 0; able = 0;
	do
	:: j < claims ->
		i = 0; held = 0;
		do
		:: i < NODES -> if :: n[i].cand == j -> held++ :: else fi; i++
		:: else -> break
		od;
		if
		:: held == 0 ->
			i = 0;
			do
			:: i < NODES ->
				n[i].am = n[i].am & ~BIT(j); n[i].ad = n[i].ad & ~BIT(j); n[i].a1 = n[i].a1 & ~BIT(j);
				n[i].a3 = n[i].a3 & ~BIT(j); i++
			:: else -> break
			od
		:: else
		fi;
		find_primary(j);
		if
		:: p == NODES ->
			x = 0; lim = 0;
			do
			:: x < writes -> if :: w[x].led == j -> lim = lim | BIT(x) :: else fi; x++
			:: else -> break
			od;
			i = 0;
			do
			:: i < NODES -> n[i].rep = n[i].rep & ~lim; i++
			:: else -> break
			od
		:: else ->
			/* Can it still acknowledge a new write? Only standbys that may go on receiving from it count. */
			i = 0; held = 0;
			do
			:: i < NODES ->
				if
				:: i != p && n[i].role != WITNESS && LISTED(i, j) &&
				   ((n[i].role != PRIMARY && TERM(n[i].rec) <= TERM(j)) || n[i].fol == j) -> held++
				:: else
				fi;
				i++
			:: else -> break
			od;
			if :: held >= SYNC -> able++ :: else fi
		fi;
		j++
	:: else -> break
	od;
	assert(able <= 1);
	c_code { qsort(now.n, NODES, sizeof(struct Node), by_content); };
	c_code { show(); };
	i = 0; j = 0; k = 0; p = 0; x = 0; lim = 0; held = 0; fit = 0; able = 0
}

#if NODES == 3
#define EACH(STEP) STEP(0) STEP(1) STEP(2)
#else
#define EACH(STEP) STEP(0) STEP(1) STEP(2) STEP(3) STEP(4)
#endif

/* Faults. A node that is down is one that nothing reaches, so any number may be down. What a crash changes: */

#define CRASH(a) \
	:: d_step { n[a].cand != NONE || n[a].role == PRIMARY CRASHES(a) -> \
		n[a].cand = NONE; FORGET(a) \
		if :: n[a].role == PRIMARY -> n[a].role = FORMER :: else fi; \
		settle() }
#ifdef EXCUSE
#define FORGET(a) n[a].ce = 0; n[a].cs = 0; AFTER(a)
#else
#define FORGET(a) AFTER(a)
#endif
#ifdef TERM_NOT_DURABLE
#define CRASHES(a) || true
#define AFTER(a) n[a].rec = (n[a].led == NONE -> 0 : n[a].led);
#elif defined(CUT_NOT_DURABLE)
#define CRASHES(a) || true
#define AFTER(a) \
	i = 0; \
	do \
	:: i < NODES && n[i].role != PRIMARY -> i++ \
	:: else -> break \
	od; \
	if :: n[a].role == STANDBY && n[a].fol == NONE && i < NODES -> n[a].fol = n[i].led :: else fi;
#else
#define CRASHES(a)
#define AFTER(a)
#endif

/* The agent stops the primary because it sees no majority, or PostgreSQL dies and its agent lives. */
#define FENCE(a) \
	:: d_step { n[a].role == PRIMARY -> n[a].role = FORMER; settle() }

/* Writes */

#define WRITE(a) \
	:: d_step { n[a].role == PRIMARY && writes < WRITES && READY(a) -> \
		w[writes].led = n[a].led; n[a].log = n[a].log | BIT(writes); writes++; settle() }

#ifdef COUNTED_BEFORE_RECORDED
#define MAY_REPORT(a, q) true
#else
#define MAY_REPORT(a, q) (TERM(n[a].rec) >= TERM(n[q].led))
#endif

/* A standby receives and flushes the next write, or the timeline of its primary, and reports it. */
inline stream(a) {
	find_primary(n[a].fol);
	if
	:: p < NODES ->
		compare(a, p);
		if
		:: fit && n[a].log != n[p].log ->
			j = 0;
			do
			:: (n[p].log & ~n[a].log & BIT(j)) == 0 -> j++
			:: else -> break
			od;
			n[a].log = n[a].log | BIT(j);
			/* the timeline to which that write belongs: the earliest on the primary's chain that has it */
			x = n[p].tl;
			do
			:: x != 0 && (c[x].base & BIT(j)) -> x = c[x].par
			:: else -> break
			od;
			n[a].tl = x;
			/* a report counts once the standby has recorded the term of the primary */
			if :: w[j].led == n[p].led && MAY_REPORT(a, p) -> n[a].rep = n[a].rep | BIT(j) :: else fi
		:: fit && n[a].log == n[p].log -> n[a].tl = n[p].tl
		:: else
		fi
	:: else
	fi
}
#define STREAM(a) \
	:: d_step { n[a].role == STANDBY && n[a].fol != NONE -> stream(a); settle() }

/* The primary acknowledges a write that `SYNC` listed standbys have reported. */
inline acknowledge(b) {
	find_primary(w[b].led);
	i = 0; held = 0;
	do
	:: i < NODES -> if :: (n[i].rep & BIT(b)) && LISTED(i, w[b].led) -> held++ :: else fi; i++
	:: else -> break
	od;
	if
	:: p < NODES && held >= SYNC ->
		acked = acked | BIT(b);
		k = 0;
		do
		:: k < claims ->
			assert(!(c[k].won && TERM(k) > TERM(w[b].led)) || (c[k].base & BIT(b)));
			k++
		:: else -> break
		od
	:: else
	fi
}
#define ACK(b) \
	:: d_step { b < writes && !(acked & BIT(b)) -> acknowledge(b); settle() }

/* Terms */


/* A node takes the term after the latest that it recorded itself (`ahead` 0), or that any node did (1), cuts its
 * walreceiver off, and sends the claim. Its position is final from now on, unless it is a running primary. */
inline claim(a, ahead) {
	k = claims; claims++;
	x = TERM(n[a].rec);
	fit = (n[a].led != NONE && x <= TERM(n[a].led));
	if
	:: ahead ->
		i = 0;
		do
		:: i < NODES -> if :: TERM(n[i].rec) > x -> x = TERM(n[i].rec) :: else fi; i++
		:: else -> break
		od
	:: else
	fi;
	c[k].term = x + 1;
#ifdef OWN_CLAIMS_IGNORED
	if :: n[a].led != NONE && (n[a].own & BIT(n[a].rec)) -> fit = 1 :: else fi;
	n[a].own = n[a].own | BIT(k);
#endif
	n[a].rec = k; n[a].cand = k; n[a].fol = NONE;
	n[a].am = n[a].am | BIT(k); n[a].ad = n[a].ad | BIT(k); n[a].a3 = n[a].a3 | BIT(k);
	if :: fit -> n[a].a1 = n[a].a1 | BIT(k) :: else fi;
#ifdef EXCUSE
	n[a].ce = n[a].ec; n[a].cs = n[a].es
#endif
}
#ifdef EXCUSE
#define CLAIM(a) \
	:: d_step { claims < CLAIMS && n[a].role != HALF && n[a].role != WITNESS -> claim(a, 1); settle() }
#else
#define CLAIM(a) \
	:: d_step { claims < CLAIMS && n[a].role != HALF && n[a].role != WITNESS -> claim(a, 0); settle() } \
	:: d_step { claims < CLAIMS && n[a].role != HALF && n[a].role != WITNESS -> claim(a, 1); settle() }
#endif

/* A node receives a claim of a later term: it cuts itself off or stops its primary, records the term, then answers. */
inline answer(a, m, arrives) {
	k = m;
	x = n[a].rec;
#ifdef ANSWER_BEFORE_CUT
#elif defined(COPY_GOES_ON)
	if :: n[a].role != HALF -> n[a].fol = NONE :: else fi;
#else
	n[a].fol = NONE;
#endif
	n[a].rec = k;
	n[a].cand = NONE;
#ifdef EXCUSE
	n[a].ce = 0; n[a].cs = 0;
#endif
#ifndef PRIMARY_ANSWERS_RUNNING
	if :: n[a].role == PRIMARY -> n[a].role = FORMER :: else fi;
#endif
	p = 0;
	do
	:: p < NODES && n[p].cand != k -> p++
	:: else -> break
	od;
	if
	:: p < NODES && arrives ->
		n[a].am = n[a].am | BIT(k);
		if
		:: HOLDS(a) && RANK_LE(a, p) -> n[a].ad = n[a].ad | BIT(k)
		:: else
		fi;
		if :: n[p].led != NONE && (TERM(x) <= TERM(n[p].led) || MINE(p, x)) -> n[a].a1 = n[a].a1 | BIT(k) :: else fi;
		if
		:: n[p].led != NONE && (n[a].led == NONE || TERM(n[a].led) <= TERM(n[p].led)) -> n[a].a3 = n[a].a3 | BIT(k)
		:: else
		fi;
#ifdef EXCUSE
		if :: LATER(n[a].ec, n[a].es, n[p].ce, n[p].cs) -> n[p].ce = n[a].ec; n[p].cs = n[a].es :: else fi
#endif
	:: else
	fi
}
#ifdef EXCUSE
/* An answer can only help its claimant, unless it brings a later excuse: only then is its loss a step of its own. */
#define BRINGS(a, q, m) (n[q].cand == (m) && LATER(n[a].ec, n[a].es, n[q].ce, n[q].cs))
#if NODES == 3
#define MATTERS(a, m) (BRINGS(a, 0, m) || BRINGS(a, 1, m) || BRINGS(a, 2, m))
#else
#define MATTERS(a, m) (BRINGS(a, 0, m) || BRINGS(a, 1, m) || BRINGS(a, 2, m) || BRINGS(a, 3, m) || BRINGS(a, 4, m))
#endif
#define LOST(a, m) \
	:: d_step { m < claims && TERM(m) > TERM(n[a].rec) && MATTERS(a, m) -> answer(a, m, 0); settle() }
#else
#define LOST(a, m)
#endif
#define ANSWER1(a, m) LOST(a, m) \
	:: d_step { m < claims && TERM(m) > TERM(n[a].rec) -> answer(a, m, 1); settle() }
#if CLAIMS == 2
#define CLAIMED(STEP, a) STEP(a, 1)
#define LED(STEP, a) STEP(a, 0) STEP(a, 1)
#elif CLAIMS == 3
#define CLAIMED(STEP, a) STEP(a, 1) STEP(a, 2)
#define LED(STEP, a) STEP(a, 0) STEP(a, 1) STEP(a, 2)
#else
#define CLAIMED(STEP, a) STEP(a, 1) STEP(a, 2) STEP(a, 3)
#define LED(STEP, a) STEP(a, 0) STEP(a, 1) STEP(a, 2) STEP(a, 3)
#endif
#define ANSWER(a) CLAIMED(ANSWER1, a)

#ifdef ANSWER_BEFORE_CUT
#define CUT(a) \
	:: d_step { n[a].fol != NONE && TERM(n[a].fol) < TERM(n[a].rec) -> n[a].fol = NONE; settle() }
#else
#define CUT(a)
#endif


/* a leads claim k; `promoted`: on a timeline of its own. */
inline lead(a, promoted) {
	c[k].won = 1;
	c[k].base = n[a].log;
	j = 0;
	do
	:: j < claims -> assert(j == k || !c[j].won || TERM(j) != TERM(k)); j++
	:: else -> break
	od;
	j = 0;
	do
	:: j < writes ->
		assert(!(acked & BIT(j)) || TERM(w[j].led) >= TERM(k) || (n[a].log & BIT(j)));
		/* the sessions of a primary that goes on go on, too */
		if :: n[a].role == PRIMARY && w[j].led == n[a].led -> w[j].led = k :: else fi;
		j++
	:: else -> break
	od;
	if
	:: promoted -> c[k].par = n[a].tl; c[k].num = c[n[a].tl].num + 1; n[a].tl = k
	:: else
	fi;
	i = 0;
	do
	:: i < NODES ->
		/* primary_conninfo names the node, whatever it leads */
		if :: n[i].fol == n[a].led && n[i].fol != NONE -> n[i].fol = k :: else fi;
		KEEP_UNLISTED(a)
		i++
	:: else -> break
	od;
	FIRST_EXCUSE(a)
	n[a].led = k; n[a].role = PRIMARY; n[a].cand = NONE; n[a].fol = NONE
}

/* The claimant a leads if a majority answered and (resume) it was the latest leader, or (promotion) no more than n
 * databases have not answered with complete WAL, where excused ones do not count. */
inline win(a) {
	k = n[a].cand;
	i = 0; x = 0; j = 0; held = 0; lim = 0;
	do
	:: i < NODES ->
		if :: n[i].am & BIT(k) -> x++ :: else fi;
		if :: n[i].a1 & BIT(k) -> j++ :: else fi;
		if :: n[i].role != WITNESS && (n[i].a3 & BIT(k)) -> held++ :: else fi;
		if :: n[i].role != WITNESS && !(n[i].ad & BIT(k)) && !(EXCUSED(i, a)) -> lim++ :: else fi;
		i++
	:: else -> break
	od;
	if
	:: x >= ENOUGH && n[a].role != STANDBY && LATEST(a) -> lead(a, 0)
	:: x >= ENOUGH && !(n[a].role != STANDBY && LATEST(a)) && lim <= UNSEEN && n[a].role != RUNNING ->
#ifdef RESUME_KEEPS_TIMELINE
		if :: n[a].role == STANDBY -> lead(a, 1) :: else -> lead(a, 0) fi
#else
		lead(a, 1)
#endif
	:: else
	fi
}
#define STANDS(a) (n[a].rec == n[a].cand)
#define WIN(a) \
	:: d_step { n[a].cand != NONE && STANDS(a) -> win(a); settle() }

/* Return */

/* A node follows a primary that leads the latest term that the node recorded, or a later one, which it records first.
 * Its WAL is part of the primary's. */
inline follow(a, m) {
	find_primary(m);
	if
	:: p < NODES && p != a ->
		compare(a, p);
		if
		:: fit ->
			if :: TERM(m) > TERM(n[a].rec) -> n[a].rec = m :: else fi;
			n[a].fol = m; n[a].role = STANDBY; n[a].cand = NONE;
			j = 0;
			do
			:: j < writes ->
				if :: (n[a].log & BIT(j)) && w[j].led == m -> n[a].rep = n[a].rep | BIT(j) :: else fi;
				j++
			:: else -> break
			od
		:: else
		fi
	:: else
	fi
}
#ifdef FOLLOWS_AN_OLDER_TERM
#define MAY_FOLLOW(a, m) true
#else
#define MAY_FOLLOW(a, m) (TERM(m) >= TERM(n[a].rec))
#endif
#define FOLLOW1(a, m) \
	:: d_step { (n[a].role == STANDBY || n[a].role == FORMER) && m < claims && c[m].won && \
		(n[a].fol != m || TERM(n[a].rec) < TERM(m)) && MAY_FOLLOW(a, m) -> follow(a, m); settle() }
#define FOLLOW(a) LED(FOLLOW1, a)

/* Any node but the primary may be rewound or copied from it, also by an administrator. Until it has received all WAL
 * that the primary had when that ended, it has no complete data. */
inline begin_copy(a, m) {
	find_primary(m);
	if
	:: p < NODES && p != a ->
		if :: TERM(m) > TERM(n[a].rec) -> n[a].rec = m :: else fi;
		n[a].fol = m; n[a].role = HALF; n[a].log = 0; n[a].tl = 0; n[a].cand = NONE
	:: else
	fi
}
#define COPY1(a, m) \
	:: d_step { n[a].role != PRIMARY && n[a].role != WITNESS && m < claims && c[m].won && \
		TERM(m) >= TERM(n[a].rec) && !(n[a].role == HALF && n[a].fol == m) -> begin_copy(a, m); settle() }
#ifdef EXCUSE
#define COPY(a)	/* explored without excuses */
#else
#define COPY(a) LED(COPY1, a)
#endif

inline end_copy(a) {
	find_primary(n[a].fol);
	if
	:: p < NODES ->
		n[a].role = STANDBY;
#ifndef REWOUND_COUNTS_AT_ONCE
		n[a].log = n[p].log; n[a].tl = n[p].tl;
		j = 0;
		do
		:: j < writes ->
			if :: (n[p].log & BIT(j)) && w[j].led == n[p].led && MAY_REPORT(a, p) -> n[a].rep = n[a].rep | BIT(j) :: else fi;
			j++
		:: else -> break
		od
#endif
	:: else
	fi
}
#define COPIED(a) \
	:: d_step { n[a].role == HALF && n[a].fol != NONE -> end_copy(a); settle() }

/* Excuse */

#ifdef EXCUSE
inline count_recorded(m, serial) {
	i = 0; held = 0;
	do
	:: i < NODES -> if :: n[i].ec == m && n[i].es >= serial -> held++ :: else fi; i++
	:: else -> break
	od
}
#define HAS1(b, m) (n[b].ec == m && n[b].es >= 1)
#define HAS3(b, m) (n[b].ec == m && n[b].es == 3)
#if NODES == 3
#define TOLD(HAS, m) (HAS(0, m) + HAS(1, m) + HAS(2, m))
#else
#define TOLD(HAS, m) (HAS(0, m) + HAS(1, m) + HAS(2, m) + HAS(3, m) + HAS(4, m))
#endif
#ifdef NO_EXCUSE_RESET
#define READY(a) true
#else
#define READY(a) (TOLD(HAS1, n[a].led) >= MAJORITY)
#endif
#define LEADS(a) (n[a].role == PRIMARY)

/* The primary b removes s from its list, if n others remain. */
inline drop(b, s) {
	k = n[b].led;
	i = 0; held = 0;
	do
	:: i < NODES -> if :: i != b && i != s && n[i].role != WITNESS && LISTED(i, k) -> held++ :: else fi; i++
	:: else -> break
	od;
	/* one at a time: without it, n others remain, and nodes have no names */
	if :: held >= SYNC && held == DATABASES - 2 -> n[s].unl = n[s].unl | BIT(k); c[k].end = n[b].log :: else fi
}
/* No claim follows the last one, so an excuse of its leader would change nothing. */
#define DROP1(b, s) \
	:: d_step { LEADS(b) && n[b].led < CLAIMS - 1 && READY(b) && b != s && n[s].role != WITNESS && c[n[b].led].sent == 1 && \
		LISTED(s, n[b].led) -> drop(b, s); settle() }

/* Once n listed standbys hold everything up to the drop, the primary excuses all dropped ones. */
inline excuse(b) {
	k = n[b].led;
	i = 0; held = 0; x = 0;
	do
	:: i < NODES ->
		if
		:: LISTED(i, k) && n[i].role == STANDBY && n[i].fol == k && (c[k].end & ~n[i].log) == 0 -> held++
		:: else
		fi;
		if :: !LISTED(i, k) -> x++ :: else fi;
		i++
	:: else -> break
	od;
	if
	:: x > 0 && EXCUSABLE ->
		i = 0;
		do
		:: i < NODES -> if :: !LISTED(i, k) -> n[i].excused = n[i].excused | BIT(k) :: else fi; i++
		:: else -> break
		od;
		c[k].sent = 2; n[b].es = 2; n[b].ec = k
	:: else
	fi
}
#define EXCUSE1(b) \
	:: d_step { LEADS(b) && READY(b) && c[n[b].led].sent == 1 && n[b].ec == n[b].led -> excuse(b); settle() }
#define END1(b) \
	:: d_step { LEADS(b) && c[n[b].led].sent == 2 && n[b].ec == n[b].led -> \
		c[n[b].led].sent = 3; n[b].es = 3; settle() }

inline relist(b) {
	i = 0;
	do
	:: i < NODES -> n[i].unl = n[i].unl & ~BIT(n[b].led); i++
	:: else -> break
	od
}
#ifdef LISTED_BEFORE_THE_END
#define ENDED(b) (c[n[b].led].sent == 3)
#else
#define ENDED(b) (c[n[b].led].sent == 3 && TOLD(HAS3, n[b].led) >= MAJORITY)
#endif
#define RELIST1(b) \
	:: d_step { LEADS(b) && ENDED(b) -> relist(b); settle() }

/* A node receives an excuse. */
#ifdef OLD_EXCUSE_ACCEPTED
#define ACCEPTS(b, m) true
#else
#define ACCEPTS(b, m) (TERM(m) >= TERM(n[b].rec))
#endif
#define RECORD2(b, m, serial) \
	:: d_step { m < claims && c[m].won && c[m].first <= serial && c[m].sent >= serial && ACCEPTS(b, m) && \
		LATER(m, serial, n[b].ec, n[b].es) -> n[b].ec = m; n[b].es = serial; settle() }
#define RECORD1(b, m) RECORD2(b, m, 1) RECORD2(b, m, 2) RECORD2(b, m, 3)
#define EXCUSES(b) DROP1(b, 0) DROP1(b, 1) DROP1(b, 2) DROP34(b) EXCUSE1(b) END1(b) RELIST1(b) LED(RECORD1, b)
#if NODES == 3
#define DROP34(b)
#else
#define DROP34(b) DROP1(b, 3) DROP1(b, 4)
#endif
#else
#define READY(a) true
#define EXCUSES(b)
#endif

/* Progress: from any state, without further faults, among the nodes other than o1 and o2 (NODES: none is absent).
 * The present node that is most advanced claims. If it cannot lead, fewer databases with complete WAL are present than
 * the rule requires; with every node present, the latest leader then resumes. All others return, and writes go on. */
#define PRESENT(a) ((a) != o1 && (a) != o2)
inline all_answer() {
	q = k; y = 0;
	do
	:: y < NODES -> if :: y != there && PRESENT(y) -> answer(y, q, 1) :: else fi; y++
	:: else -> break
	od;
	win(there)
}
inline calm(a, b) {
	o1 = a; o2 = b;
	y = 0; best = NODES; latest = NODES; whole = 0;
	do
	:: y < NODES ->
		if
		:: PRESENT(y) ->
			if :: n[y].role == PRIMARY -> n[y].role = FORMER :: else fi;
			n[y].cand = NONE;
			if
			:: n[y].role != WITNESS && n[y].role != HALF ->
				whole++;
				if
				:: best == NODES -> best = y
				:: best < NODES -> if :: !RANK_LE(y, best) -> best = y :: else fi
				fi
			:: else
			fi;
			if
			:: n[y].led != NONE ->
				if
				:: latest == NODES -> latest = y
				:: latest < NODES -> if :: TERM(n[y].led) > TERM(n[latest].led) -> latest = y :: else fi
				fi
			:: else
			fi
		:: else
		fi;
		y++
	:: else -> break
	od;
	there = best;
	if
	:: best < NODES -> claim(there, 1); all_answer()
	:: else
	fi;
	if
	:: best < NODES && n[best].role == PRIMARY -> there = best
	:: else ->
		assert(whole < DATABASES - SYNC || DATABASES - SYNC == 0);
		there = NODES;
		if
		:: o1 == NODES -> there = latest; claim(there, 1); all_answer(); assert(n[there].role == PRIMARY)
		:: else
		fi
	fi;
	if
	:: there < NODES ->
		y = 0; whole = 0; q = n[there].led;
		do
		:: y < NODES ->
			if
			:: y != there && PRESENT(y) && n[y].role != WITNESS ->
				if :: n[y].role != HALF -> follow(y, q) :: else fi;
				if :: n[y].fol != q -> begin_copy(y, q); end_copy(y) :: else fi;
				if :: n[y].role == STANDBY && n[y].fol == q -> whole++ :: else fi;
				assert(n[y].role == STANDBY && n[y].fol == q)
			:: else
			fi;
			y++
		:: else -> break
		od
	:: else
	fi;
	c_code {
		memset(now.n, 0, sizeof(now.n)); memset(now.c, 0, sizeof(now.c)); memset(now.w, 0, sizeof(now.w));
		now.claims = now.writes = now.acked = 0;
	};
	i = 0; j = 0; k = 0; p = 0; x = 0; lim = 0; held = 0; fit = 0; able = 0;
	y = 0; q = 0; best = 0; latest = 0; whole = 0; there = 0; o1 = 0; o2 = 0
}

#define CALM(a, b) :: d_step { true -> calm(a, b) }; goto calmed
#if NODES == 3
#define ABSENT CALM(0, NODES) CALM(1, NODES) CALM(2, NODES)
#else
#define ABSENT CALM(0, 1) CALM(0, 2) CALM(0, 3) CALM(0, 4) CALM(1, 2) CALM(1, 3) CALM(1, 4) CALM(2, 3) CALM(2, 4) \
	CALM(3, 4)
#endif

#define NODE(a) CRASH(a) FENCE(a) WRITE(a) STREAM(a) CLAIM(a) ANSWER(a) CUT(a) WIN(a) FOLLOW(a) COPY(a) \
	COPIED(a) EXCUSES(a)

init {
	d_step {
		do
		:: i < NODES ->
			n[i].role = (i == 0 -> PRIMARY : (i < DATABASES -> STANDBY : WITNESS));
			n[i].led = (i == 0 -> 0 : NONE);
			n[i].fol = (i == 0 || i >= DATABASES -> NONE : 0);
			n[i].cand = NONE;
#ifdef EXCUSE
			n[i].es = 1;
#endif
			i++
		:: else -> break
		od;
		c[0].term = 1; c[0].won = 1; c[0].num = 1;
#ifdef EXCUSE
		c[0].first = 1; c[0].sent = 1;
#endif
		settle()
	}
	do
	EACH(NODE)
	ACK(0)
#if WRITES > 1
	ACK(1)
#endif
#if WRITES > 2
	ACK(2)
#endif
#ifndef NO_PROGRESS
	CALM(NODES, NODES)
	ABSENT
#endif
	od;
calmed:
	skip
}
