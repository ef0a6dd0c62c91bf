# The whole build as one graph: debian/rules runs it with as many jobs as allowed, so
# that no core waits for configure, for the manual or for a single big parser.
#
# config.status and the stamps in build-doc/ are not rebuilt if they are newer than
# their prerequisites: a builder may restore them from an earlier build of the same
# source (debian/generated-files).

# Here, not in debian/rules: make reads debian/rules once per override, and would call
# dpkg-buildflags each time.

include /usr/share/dpkg/architecture.mk
# pgpool-II calls the old LDAP functions, but does not always request their prototypes.
export DEB_CPPFLAGS_MAINT_APPEND = -DLDAP_DEPRECATED=1
# Only config.h of 4.7 and later defines it; SCRAM needs it.
ifeq ($(DEB_HOST_ARCH_ENDIAN),big)
DEB_CPPFLAGS_MAINT_APPEND += -DWORDS_BIGENDIAN=1
endif
# Up to 4.6, a header defines bool, which is a keyword in C23, GCC's default from 15 on.
export DEB_CFLAGS_MAINT_APPEND = -std=gnu17
DPKG_EXPORT_BUILDFLAGS = 1
include /usr/share/dpkg/buildflags.mk

# Explicit, although it is the default of Debian's compiler: blhc --all checks for it.
# libtool keeps both away from shared libraries.
PIE_COMPILE := -fPIE
PIE_LINK := -pie

MAJORS := $(shell pg_buildext supported-versions)
MODULES := $(notdir $(patsubst %/,%,$(wildcard src/sql/*/)))

.PHONY: all daemon docs library modules
all: docs daemon modules

# ---- the daemon, its tools and libpcp ----------------------------------------

# Only a checkout of upstream's git lacks configure.
configure:
	autoreconf -fi

# Not dh_auto_configure: it passes --runstatedir, which upstream's older Autoconf does
# not support.
config.status: configure
	CFLAGS='$(CFLAGS) $(PIE_COMPILE)' LDFLAGS='$(LDFLAGS) $(PIE_LINK)' ./configure \
	    --build=$(DEB_BUILD_GNU_TYPE) --host=$(DEB_HOST_GNU_TYPE) \
	    --prefix=/usr \
	    --bindir=/usr/sbin \
	    --includedir=/usr/include/pgpool2 \
	    --libdir=/usr/lib/$(DEB_HOST_MULTIARCH) \
	    --localstatedir=/var \
	    --mandir=/usr/share/man \
	    --sysconfdir=/etc/pgpool2 \
	    --disable-rpath \
	    --disable-silent-rules \
	    --with-ldap \
	    --with-memcached=/usr \
	    --with-openssl \
	    --with-pam \
	    || { cat config.log; exit 1; }

# gram.h: a checkout of upstream's git lacks the files that Bison generates, and src/libs
# includes one.
# pool_config.c: the tarball has a version that flex generated without our patches. Whether
# it is newer than the patched pool_config.l depends on the builder's clock.
library: config.status
	rm -f src/config/pool_config.c
	$(MAKE) -C src/parser gram.h
	$(MAKE) -C src/libs

daemon: library
	$(MAKE)

# ---- the manual ----------------------------------------------------------------

# Upstream's steps (doc/src/sgml/Makefile.am) in a copy of their sources: the pages
# in the tarball are neither used nor overwritten, the manual does not wait for
# configure, and HTML and manual pages are built in parallel.

# Upstream's own version, independent of the package version of a checkout.
MANUAL_VERSION := $(shell sed -n 's/^AC_INIT(\[*pgpool-II\]*, *\[*\([^],)]*\).*/\1/p' configure.ac)
DOC_SOURCES := $(wildcard doc/src/sgml/*.* doc/src/sgml/ref/*.* doc/src/figures/*.gif)
JADE := openjade -wall -wno-unused-param -wno-empty -wfully-tagged \
    -c /usr/share/sgml/docbook/stylesheet/dsssl/modular/catalog \
    -d stylesheet.dsl -t sgml -i output-html

# The commands are in /usr/sbin, so their pages are in section 8; statements for a
# client's session are in section 7, as PostgreSQL's own.
SQL_COMMANDS := $(notdir $(wildcard $(addprefix doc/src/sgml/ref/,\
    show_*.sgml $(addprefix pgpool_,reset.sgml set.sgml set_cache.sgml show.sgml))))

docs: build-doc/html-stamp build-doc/man-stamp

build-doc/source-stamp: $(DOC_SOURCES) debian/build.mk
	rm -rf build-doc
	mkdir -p build-doc/html
	cp -R $(addprefix doc/src/sgml/,*.sgml *.dsl *.xsl *.css ref) build-doc
	sed -i 's/<manvolnum>1</<manvolnum>8</' build-doc/ref/*.sgml
	sed -i 's/<manvolnum>8</<manvolnum>7</' $(addprefix build-doc/ref/,$(SQL_COMMANDS) pcp_common_options.sgml)
	echo '<!ENTITY version "$(MANUAL_VERSION)">' > build-doc/version.sgml
	: > build-doc/bookindex.sgml
	touch $@

# Drop the creation time from each page, so that the same source gives the same page.
build-doc/html-stamp: build-doc/source-stamp
	cp doc/src/figures/*.gif doc/src/sgml/stylesheet.css build-doc/html
	cd build-doc && $(JADE) -V html-index pgpool.sgml
	cd build-doc && LC_ALL=C collateindex.pl -f -g -i bookindex -o index.tmp HTML.index
	cd build-doc && mv index.tmp bookindex.sgml
	cd build-doc && $(JADE) -i include-index pgpool.sgml
	perl -0pi -e 's/><META\nNAME="creation"\nCONTENT="[-0-9T:]*"//' build-doc/html/*.html
	touch $@

build-doc/man-stamp: build-doc/source-stamp debian/sgml2xml debian/tidy-man
	cd build-doc && osx -D. -x lower -i include-xslt-index pgpool.sgml | perl ../debian/sgml2xml > pgpool.xml
	cd build-doc && xmllint --nonet --noout --valid pgpool.xml
	cd build-doc && xsltproc --nonet --stringparam pg.version '$(MANUAL_VERSION)' stylesheet-man.xsl pgpool.xml
	debian/tidy-man build-doc/man?/*
	touch $@

# ---- server modules: out of tree, all majors side by side ------------------------

# src/pgN/MODULE is as deep as src/sql/MODULE, so upstream's relative paths hold, and
# so does one from either to the sources: no build path gets into the bitcode.
# Each module is one C file, so pg_buildext's own make does not need the job server.
define module
modules: src/pg$(1)/$(2)/built
src/pg$(1)/$(2)/built: src/sql/$(2)/Makefile
	cd src/sql/$(2) && env -u DEB_BUILD_OPTIONS -u MAKEFLAGS \
	    pg_buildext build-$(1) ../../sql/$(2) ../../pg%v/$(2)
	touch $$@
endef
$(foreach v,$(MAJORS),$(foreach m,$(MODULES),$(eval $(call module,$(v),$(m)))))

# It is linked with libpcp.
$(MAJORS:%=src/pg%/pgpool_adm/built): library
